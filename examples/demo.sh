#!/usr/bin/env bash
# The main job end to end on a fresh machine: needs Python 3.11 or newer and nothing else. Makes a virtual environment,
# installs sfumato with LiteLLM's proxy, and runs `sfumato demo`: 21 variants, n=4, an edit with a mask, a blocked prompt
# and a repeated one, through a real LiteLLM proxy and through a FastAPI app, every answer checked.
#
#   ./examples/demo.sh               # with the local emulator: free, needs no key
#   GEMINI_API_KEY=… ./examples/demo.sh [--yes]   # with Google; `./examples/demo.sh --help` tells what it costs
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$here")"
venv="$root/build/demo-venv"

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.14 python; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  echo "demo.sh: needs Python 3.11 or newer, found: $(python3 --version 2>/dev/null || echo no python3)." >&2
  echo "Install it (python.org, your package manager), or name it: PYTHON=/path/to/python3.11 $0" >&2
  return 1
}

# What decides what is installed; the package itself is installed editable, so its code is always the tree's.
wanted="$(cksum "$root/pyproject.toml"; echo "$root")"
if [[ ! -x "$venv/bin/sfumato" || "$(cat "$venv/.installed" 2>/dev/null)" != "$wanted" ]]; then
  python="$(find_python)"
  echo "Installing sfumato and LiteLLM's proxy into $venv (a minute or two, once)"
  rm -rf "$venv"
  mkdir -p "$root/build"
  if ! "$python" -m venv "$venv"; then
    rm -rf "$venv"
    echo "demo.sh: $python cannot make virtual environments (on Debian and Ubuntu: apt install python3-venv)." >&2
    exit 1
  fi
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root[proxy,cli]"
  echo "$wanted" >"$venv/.installed"
fi

exec "$venv/bin/sfumato" demo --config "$here/litellm_proxy/config.yaml" --app "$here/fastapi_app.py" "$@"
