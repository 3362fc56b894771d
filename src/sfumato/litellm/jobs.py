"""What LiteLLM hands to a custom provider, the same for generations and edits."""

from __future__ import annotations

import io
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfumato.errors import InvalidImageError
from sfumato.images.request import ImageSource, Operation
from sfumato.litellm.errors import PROVIDER

_log = logging.getLogger("sfumato")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One call of LiteLLM's, as it came.

    Attributes:
        request_id: LiteLLM's call id, which its clients are told; one of ours where it has none.
        images: File objects, bytes, tuples of the OpenAI client, or text in JSON's forms.
        optional_params: What LiteLLM calls so: the parameters, and for edits much else, headers with keys included.
        litellm_params: Holds ``metadata``, ``litellm_metadata`` and ``proxy_server_request``.
        timeout: A number, text or ``httpx.Timeout``.
    """

    operation: Operation
    request_id: str
    model: str
    prompt: str | None
    images: Sequence[Any] = ()
    optional_params: dict[str, Any] = field(repr=False)
    litellm_params: Mapping[str, Any] = field(repr=False)
    logging_obj: Any = None
    api_key: str | None = field(default=None, repr=False)
    api_base: str | None = None
    timeout: Any = None


def generation_job(model: str, prompt: str, given: Mapping[str, Any]) -> Job:
    """Read the arguments of ``image_generation``; the request stands in the logging object only."""
    details = getattr(given.get("logging_obj"), "model_call_details", None) or {}
    return _job(Operation.GENERATION, model, prompt, given, litellm_params=details.get("litellm_params") or {})


def edit_job(model: str, image: Any, prompt: str | None, given: Mapping[str, Any]) -> Job:
    """Read the arguments of ``image_edit``; LiteLLM 1.106.2 hands over its whole keyword arguments as parameters."""
    images = image if isinstance(image, list) else [image]
    litellm_params = dict(given["optional_params"])
    return _job(Operation.EDIT, model, prompt, given, litellm_params=litellm_params, images=images)


def tell_litellm(job: Job) -> None:
    """Tell LiteLLM's log which model and provider serve an edit.

    LiteLLM 1.106.2 forgets to for custom providers: its logs then name the group, no provider, and no price. An
    internal of LiteLLM: where it has changed, only the log is poorer.
    """
    given = job.litellm_params
    try:
        job.logging_obj.update_from_kwargs(
            kwargs={name: given.get(name) for name in ("metadata", "litellm_metadata") if given.get(name)},
            model=job.model,
            user=given.get("user"),
            optional_params={},
            litellm_params={
                "litellm_call_id": given.get("litellm_call_id"),
                "model_info": given.get("model_info"),
                "proxy_server_request": given.get("proxy_server_request"),
                "api_base": job.api_base or "",
            },
            custom_llm_provider=PROVIDER,
        )
    except (AttributeError, TypeError):
        _log.debug("LiteLLM's logging object has changed: its log of this edit misses the model.")


def read_files(images: Sequence[Any], masks: Sequence[Any]) -> tuple[tuple[ImageSource, ...], ImageSource | None]:
    """Read the pictures of an edit and its mask, from the start; call it in a thread.

    Raises:
        InvalidImageError: One of them is nothing that holds bytes.
    """
    names = [f"image[{place}]" for place in range(len(images))] if len(images) > 1 else ["image"]
    sources = tuple(ImageSource(name, data=_read(image, name)) for name, image in zip(names, images, strict=False))
    mask = ImageSource("mask", data=_read(masks[0], "mask")) if masks else None
    return sources, mask


def _read(value: Any, param: str) -> bytes:
    if isinstance(value, tuple):
        # The OpenAI client's (name, content[, type[, headers]]).
        value = value[1] if len(value) > 1 else None
    if isinstance(value, os.PathLike):
        return Path(value).read_bytes()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    # Starlette's upload, which reads asynchronously, holds a file that does not.
    holder = getattr(value, "file", value)
    if not hasattr(holder, "read"):
        raise InvalidImageError(f"'{param}' must be a file or bytes.", param=param)
    if holder.seekable():
        # A retry gets the same object, read to its end by the attempt before.
        holder.seek(0, io.SEEK_SET)
    data = holder.read()
    if not isinstance(data, bytes):
        raise InvalidImageError(f"'{param}' must be opened in binary mode.", param=param)
    return data


def _job(
    operation: Operation,
    model: str,
    prompt: str | None,
    given: Mapping[str, Any],
    *,
    litellm_params: Mapping[str, Any],
    images: Sequence[Any] = (),
) -> Job:
    logging_obj = given.get("logging_obj")
    call_id = getattr(logging_obj, "litellm_call_id", None) or litellm_params.get("litellm_call_id")
    return Job(
        operation=operation,
        request_id=str(call_id or uuid.uuid4()),
        model=model,
        prompt=prompt,
        images=images,
        optional_params=given["optional_params"],
        litellm_params=litellm_params,
        logging_obj=logging_obj,
        api_key=given.get("api_key"),
        api_base=given.get("api_base"),
        timeout=given.get("timeout"),
    )
