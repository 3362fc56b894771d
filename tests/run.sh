#!/usr/bin/env bash
# Everything that CI runs: formatting, lint, types, import rules, tests with branch coverage. Installs what it needs into
# .venv and build/, from uv.lock. Any cwd, any user, a fresh clone; needs Python 3.11 or newer.
#
#   ./tests/run.sh                  # all of it
#   ./tests/run.sh -k demo -x       # with arguments: installs, then only `pytest` with them, without the coverage bars
#   SFUMATO_TEST_WORKERS=8 ./tests/run.sh    # all of it, the tests in 8 processes in place of 4
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root="$PWD"
build="$root/build"
venv="$root/.venv"
newest="$build/openai-newest"

# What the developer's shell has set must not decide what is installed or run.
unset VIRTUAL_ENV PYTHONPATH PYTHONHOME UV_PROJECT_ENVIRONMENT PYTHONDONTWRITEBYTECODE
export UV_PYTHON_DOWNLOADS=never

# Every process started from here carries this in its environment: what still runs at the end was left behind.
SFUMATO_TEST_RUN="$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"
export SFUMATO_TEST_RUN

current=""
began=0
step() {
  current="$1"
  began=$SECONDS
  shift
  printf '\n== %s\n' "$current"
  # Not behind || or if: there bash would go on after a failing line of a function.
  "$@"
  printf -- '-- %s: %d s\n' "$current" $((SECONDS - began))
  current=""
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  echo "run.sh: needs Python 3.11 or newer; name it as PYTHON=/path/to/python3.11" >&2
  return 1
}

install() {
  local python uv
  python="$(find_python)"
  if ! uv="$(command -v uv)"; then
    uv="$build/uv/bin/uv"
    # An environment of its own: syncing .venv to the lock would remove uv from there.
    if [[ ! -x "$uv" ]]; then
      "$python" -m venv "$build/uv"
      "$build/uv/bin/python" -m pip install --quiet --disable-pip-version-check uv
    fi
  fi
  [[ -x "$venv/bin/python" ]] || "$python" -m venv "$venv"
  # The tests start some eighty processes: each would compile what it imports, where that is not kept.
  "$uv" sync --quiet --frozen --all-extras --compile-bytecode
  # LiteLLM holds openai below 3; the tests meet the newest client from an environment of its own.
  if ! "$newest/bin/python" -c 'import openai; assert openai.__version__.startswith("3.")' 2>/dev/null; then
    rm -rf "$newest"
    "$uv" venv --quiet --python "$venv/bin/python" "$newest"
    "$uv" pip install --quiet --python "$newest/bin/python" 'openai>=3,<4'
  fi
}

# Tests start a Redis and a Prometheus of their own, and run the commands of the operations pages; in CI a missing one is
# a failure, on a laptop its tests are skipped.
install_servers() {
  local program packages=() as_root=()
  for program in redis-server prometheus jq curl; do
    command -v "$program" >/dev/null 2>&1 || packages+=("$program")
  done
  ((${#packages[@]})) || return 0
  [[ "$(id -u)" == 0 ]] || as_root=(sudo -n)
  if command -v apt-get >/dev/null 2>&1 && "${as_root[@]}" true 2>/dev/null; then
    "${as_root[@]}" apt-get update -qq
    install_without_services "${packages[@]}"
    return 0
  fi
  echo "run.sh: no ${packages[*]}, and no way to install it here: its tests are skipped, or fail in CI"
}

# Debian's packages start a service when they are installed, unless this file says no.
install_without_services() {
  local policy=/usr/sbin/policy-rc.d made="" status=0
  if [[ ! -e "$policy" ]]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod +x "$policy"
    made=1
  fi
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null || status=$?
  [[ -z "$made" ]] || "${as_root[@]}" rm -f "$policy"
  return "$status"
}

covered_tests() {
  rm -rf "$build/coverage"
  mkdir -p "$build/coverage"
  # More workers than processors: the tests wait for processes and deadlines. Files that share a server stay together.
  "$venv/bin/python" -m coverage run -m pytest -n "${SFUMATO_TEST_WORKERS:-4}" --dist loadgroup --no-loadscope-reorder
}

coverage_bars() {
  "$venv/bin/python" -m coverage combine --quiet
  "$venv/bin/python" -m coverage report
  "$venv/bin/python" -m coverage json --quiet -o "$build/coverage/report.json"
  "$venv/bin/python" - "$build/coverage/report.json" <<'PYTHON'
import json
import sys

ROOMS = {"images": 95, "wire": 95, "asgi": 95, "litellm": 95, "": 90}
COUNTS = ("covered_lines", "num_statements", "covered_branches", "num_branches")
with open(sys.argv[1]) as report:
    files = json.load(report)["files"]
low = 0
print(f"\n{'room':10} {'all':>8} {'branches':>9}   bar")
for room, bar in ROOMS.items():
    rows = [row["summary"] for name, row in files.items() if f"sfumato/{room}/".replace("//", "/") in name]
    lines, statements, taken, branches = (sum(row[count] for row in rows) for count in COUNTS)
    total = 100 * (lines + taken) / max(1, statements + branches)
    by_branch = 100 * taken / branches if branches else 100.0
    met = rows and total >= bar and by_branch >= bar
    low += not met
    print(f"{room or 'whole':10} {total:7.2f}% {by_branch:8.2f}%   {bar}%{'' if met else '   TOO LOW'}")
sys.exit(f"coverage is below {low} of its bars" if low else 0)
PYTHON
}

left_behind() {
  (
    marker="SFUMATO_TEST_RUN=$SFUMATO_TEST_RUN"
    # The search must not find itself.
    unset SFUMATO_TEST_RUN
    grep -lsaF "$marker" /proc/[0-9]*/environ | cut -d/ -f3 || true
  )
}

nothing_runs() {
  local patience pids
  [[ -d /proc/self ]] || return 0
  # Whoever was told to end may need a moment for it.
  for patience in 0.1 0.2 0.4 0.8 1.5 3 6 12; do
    pids="$(left_behind)"
    [[ -z "$pids" ]] && return 0
    sleep "$patience"
  done
  echo "These processes were left behind:"
  for pid in $pids; do
    printf '%s  %s\n' "$pid" "$({ tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null)"
    kill -9 "$pid" 2>/dev/null || true
  done
  return 1
}

finish() {
  local status=$?
  trap - EXIT
  [[ -z "$current" ]] || printf -- '-- %s: FAILED (%d) after %d s\n' "$current" "$status" $((SECONDS - began))
  nothing_runs || status=1
  printf '\n%s after %d s\n' "$([[ $status == 0 ]] && echo PASSED || echo FAILED)" "$SECONDS"
  exit "$status"
}
trap finish EXIT

step "install" install
step "servers" install_servers
export COVERAGE_FILE="$build/coverage/data" SFUMATO_NEWEST_OPENAI_PYTHON="$newest/bin/python"
if (($#)); then
  step "pytest $*" "$venv/bin/python" -m pytest "$@"
  exit
fi
step "formatting" "$venv/bin/ruff" format --check
step "lint" "$venv/bin/ruff" check
step "types" "$venv/bin/mypy" src tests examples
step "import rules" "$venv/bin/lint-imports"
step "tests" covered_tests
step "coverage" coverage_bars
