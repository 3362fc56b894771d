"""`GeminiImageLLM`: LiteLLM's calls to `ImageClient.generate()`, asynchronous and synchronous."""

from __future__ import annotations

import functools
import logging
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

from anyio import to_thread
from litellm.llms.custom_llm import CustomLLM
from litellm.types.utils import ImageResponse

from sfumato.asgi.exchange import Attempt, current_exchange
from sfumato.errors import ConfigurationError, ImageError, InternalError, InvalidParameterError
from sfumato.images.request import CacheStatus, ImageSource, Operation
from sfumato.images.resolution import ImageWish
from sfumato.images.variants import Variant, require_variant
from sfumato.litellm.answers import mark_cache_hit, render_image_response
from sfumato.litellm.background import BackgroundLoop
from sfumato.litellm.caller import Caller, parse_timeout, read_caller
from sfumato.litellm.errors import seen_status, translate_error
from sfumato.litellm.hooks import ATTEMPT_KEY, register
from sfumato.litellm.jobs import Job, edit_job, generation_job, read_files, tell_litellm
from sfumato.litellm.late_binding import LateBinding
from sfumato.litellm.params import Captured, build_wish, take
from sfumato.runtime import Runtime
from sfumato.upstream.accounts import Account
from sfumato.wire.headers import parse_cache_control, result_headers, stricter

_log = logging.getLogger("sfumato")


class GeminiImageLLM(CustomLLM):
    """LiteLLM's provider ``gemini-image``.

    Args:
        runtime: Where clients come from; one from the environment by default.

    Raises:
        ConfigurationError: The environment is invalid.
    """

    def __init__(self, runtime: Runtime | None = None) -> None:
        super().__init__()
        # LiteLLM reads its callbacks before it calls a provider: without them the first edit would lose its mask.
        register()
        self._runtime = runtime or Runtime(export=True)
        self._background = BackgroundLoop(self._runtime.aclose)
        self._late_binding = LateBinding()

    @property
    def runtime(self) -> Runtime:
        """Return where clients come from."""
        return self._runtime

    # The signatures leave out what LiteLLM passes by keyword only, and adds to at will.
    async def aimage_generation(self, model: str, prompt: str, **kwargs: Any) -> ImageResponse:  # type: ignore[override]
        """Make pictures from text, for ``litellm.aimage_generation`` and the proxy."""
        return await self._serve(generation_job(model, prompt, kwargs))

    async def aimage_edit(  # type: ignore[override]  # see above
        self, model: str, image: Any, prompt: str | None, **kwargs: Any
    ) -> ImageResponse:
        """Make pictures from pictures, for ``litellm.aimage_edit`` and the proxy."""
        return await self._serve(edit_job(model, image, prompt, kwargs))

    def image_generation(self, model: str, prompt: str, **kwargs: Any) -> ImageResponse:  # type: ignore[override]
        """Make pictures from text, for ``litellm.image_generation``: with what LiteLLM lets through."""
        return self._background.run(self._serve(generation_job(model, prompt, kwargs)))

    def image_edit(  # type: ignore[override]  # see above
        self, model: str, image: Any, prompt: str | None, **kwargs: Any
    ) -> ImageResponse:
        """Make pictures from pictures, for ``litellm.image_edit``: with what LiteLLM lets through."""
        return self._background.run(self._serve(edit_job(model, image, prompt, kwargs)))

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        del args
        error = InvalidParameterError(
            "This model makes pictures: call /v1/images/generations or /v1/images/edits.", param="model"
        )
        raise translate_error(error, model=str(kwargs.get("model")), request_id=str(uuid.uuid4()))

    # LiteLLM's own refusals are a 500 that is repeated, and on streams a traceback sent to the client (1.106.2).
    completion = acompletion = streaming = astreaming = _refuse
    embedding = aembedding = _refuse

    async def aclose(self) -> None:
        """Release the connections of the running event loop."""
        await self._runtime.aclose()

    def close(self) -> None:
        """End the thread of the synchronous calls and release its connections."""
        self._background.close()

    async def _serve(self, job: Job) -> ImageResponse:
        # A config.yaml whose `callbacks` is no list replaces LiteLLM's list of callbacks, ours with it.
        register()
        caller = read_caller(job.litellm_params)
        exchange = current_exchange()
        attempt = exchange.begin(job.request_id) if exchange is not None else None
        failure: ImageError
        try:
            return await self._answer(job, caller, attempt)
        except ImageError as error:
            failure = error
        except Exception:  # noqa: BLE001  # whatever it is, no traceback may reach a client
            _log.exception("Request %s failed unexpectedly", job.request_id)
            failure = InternalError()
        # Outside of the except blocks: LiteLLM looks for an AttributeError among the causes and then calls it the
        # client's fault (1.106.2, common_request_processing.py).
        raised = translate_error(
            failure, model=job.model, request_id=job.request_id, sole_deployment=caller.sole_deployment
        )
        if attempt is not None:
            attempt.fail(failure, seen_status=seen_status(failure))
            setattr(raised, ATTEMPT_KEY, attempt.id)
        raise raised

    async def _answer(self, job: Job, caller: Caller, attempt: Attempt | None) -> ImageResponse:
        captured = take(job.operation, job.optional_params, job.litellm_params, job.logging_obj)
        if job.operation is Operation.EDIT:
            tell_litellm(job)
        client = self._runtime.client
        call = caller.call(job.request_id)
        model: str | None = None
        try:
            variant = require_variant(job.model)
            model = variant.name
            floor = caller.strictest_floor()
            account = self._account(job)
            timeout = parse_timeout(job.timeout)
            if caller.health_check:
                return self._healthy(account)
            late = attempt is not None and self._binds_late(job, caller, captured)
            wish = await self._wish(job, caller, captured, variant)
        except ImageError as error:
            client.refuse(error, call=call, operation=job.operation.value, model=model, tenant=caller.tenant)
            raise
        result = await client.generate(wish, call=call, floor=floor, account=account, timeout_seconds=timeout)
        try:
            response = await render_image_response(result, request_id=call.request_id, attempt=attempt, late=late)
        except BaseException:
            # Also when the caller is cancelled meanwhile: the pictures are paid for.
            client.keep(result, call=call)
            raise
        if attempt is not None:
            attempt.succeed(
                result_headers(result, request_id=call.request_id),
                on_undelivered=functools.partial(client.keep, result, call=call),
            )
        if result.cache_status is CacheStatus.HIT:
            mark_cache_hit(job.logging_obj)
        return response

    async def _wish(self, job: Job, caller: Caller, captured: Captured, variant: Variant) -> ImageWish:
        images = [item for item in (*job.images, *captured.files) if item is not None]
        held = [item for item in images if not isinstance(item, str | Mapping)]
        masks = captured.mask if isinstance(captured.mask, list) else [captured.mask]
        masks = [item for item in masks if item is not None]
        if len(masks) > 1:
            raise InvalidParameterError("Only one 'mask' can be sent.", param="mask")
        files: tuple[ImageSource, ...] = ()
        mask: ImageSource | None = None
        if held or masks:
            files, mask = await to_thread.run_sync(read_files, held, masks)
        wish = build_wish(
            job.operation,
            variant,
            captured,
            prompt=job.prompt,
            files=files,
            mask=mask,
            others=[item for item in images if isinstance(item, str | Mapping)],
            tenant=caller.tenant,
            user=caller.user,
            drop_unknown=self._runtime.settings.drop_params,
        )
        asked = parse_cache_control(caller.headers.get("cache-control"))
        return replace(wish, cache_control=stricter(wish.cache_control, asked))

    def _binds_late(self, job: Job, caller: Caller, captured: Captured) -> bool:
        # Of the client's own body it is an unknown parameter.
        choice = captured.defaults.get("late_binding", caller.model_info.get("late_binding"))
        return self._late_binding.applies(choice, job.logging_obj)

    def _account(self, job: Job) -> Account | None:
        if job.api_key:
            return self._runtime.account(job.api_key, job.api_base or None)
        if job.api_base:
            raise ConfigurationError(
                "This deployment has an api_base and no api_key. The operator must set both: the keys of the "
                "environment are sent to GEMINI_IMAGE_API_BASE only."
            )
        return None

    def _healthy(self, account: Account | None) -> ImageResponse:
        """Answer LiteLLM's own health check without a picture: one would be billed each time."""
        if account is None and not self._runtime.accounts:
            raise ConfigurationError("No Gemini API key is configured. The operator must set GEMINI_API_KEY.")
        return ImageResponse(hidden_params={"response_cost": 0.0})
