"""Input pictures on their way in: decoded, fetched, inspected and bounded, off the event loop."""

from __future__ import annotations

from dataclasses import dataclass

from anyio import to_thread

from sfumato.errors import InvalidParameterError, PayloadTooLargeError
from sfumato.images.request import ImageSource, InputImage
from sfumato.images.resolution import ImageWish, InputImages
from sfumato.pictures.inspect import ImageLimits, inspect_image, passes
from sfumato.pictures.threads import run_pixel_work
from sfumato.upstream.fetch import PictureFetcher
from sfumato.wire.payload import decode_base64


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """Turn the pictures of a wish into inspected ones.

    Attributes:
        limits: Bytes and pixels of one picture.
        max_request_bytes: Limit of the upstream JSON, which holds every picture as base64.
        fetcher: Fetches remote pictures from listed hosts.
    """

    limits: ImageLimits
    max_request_bytes: int
    fetcher: PictureFetcher

    async def admit(self, wish: ImageWish) -> InputImages:
        """Read, fetch and inspect every picture of *wish*.

        Raises:
            InvalidImageError: A picture is broken or of a kind that cannot be sent.
            InvalidParameterError: There are too many, or an address is not allowed.
            PayloadTooLargeError: One of them, or all together, are over a limit.
        """
        family = wish.variant.family
        # Before any byte is decoded or fetched, so that no request can ask for a thousand.
        if len(wish.images) > family.max_input_images:
            raise InvalidParameterError(
                f"{len(wish.images)} images were sent; {family.name} takes at most {family.max_input_images}.",
                param="image",
            )
        images: list[InputImage] = []
        budget = self.max_request_bytes * 3 // 4
        for source in wish.images:
            image = await self._read(source)
            budget -= len(image.data)
            if budget < 0:
                raise PayloadTooLargeError(
                    f"The images together are larger than the {self.max_request_bytes:,} bytes that one request may "
                    "send to Gemini as base64. Send fewer or smaller images.",
                    param="image",
                )
            images.append(image)
        mask = await self._read(wish.mask) if wish.mask else None
        return InputImages(tuple(images), mask)

    async def _read(self, source: ImageSource) -> InputImage:
        if source.url is not None:
            data = await self.fetcher.fetch(source.url, param=source.param)
        elif source.data is not None:
            data = source.data
        else:
            data = await to_thread.run_sync(lambda: decode_base64(source.base64 or "", param=source.param))

        def inspect() -> InputImage:
            return inspect_image(data, param=source.param, limits=self.limits)

        # What passes as it is needs no pixels; the rest is decoded and encoded anew, in the places for that.
        return await (to_thread.run_sync(inspect) if passes(data) else run_pixel_work(inspect))
