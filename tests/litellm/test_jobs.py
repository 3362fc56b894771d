from __future__ import annotations

import io

from sfumato.images.request import Operation
from sfumato.litellm.jobs import Job, read_files, tell_litellm


def test_a_changed_litellm_costs_the_log_only() -> None:
    job = Job(
        operation=Operation.EDIT,
        request_id="r",
        model="m",
        prompt="p",
        optional_params={},
        litellm_params={},
        logging_obj=object(),
    )

    tell_litellm(job)


def test_a_stream_without_a_start_is_read_from_where_it_stands() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    (image,), mask = read_files([Pipe(b"x")], [])

    assert (image.data, mask) == (b"x", None)
