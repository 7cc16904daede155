"""Pictures of forms that other programs take and this server does not."""

import io

from PIL import Image, ImageOps

from service.commands.importing.source import BadRecordError

_OTHERS = {b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"\0\0\1\0": "ICO"}
_MAX_PIXELS = 64_000_000


def servable(picture: bytes) -> bytes:
    """The first picture of a GIF, TIFF or ICO file as a PNG; anything else as it is, for the server to judge.

    Raises:
        BadRecordError: it is one of these and cannot be read.
    """
    form = _OTHERS.get(picture[:4])
    if form is None:
        return picture
    try:
        with Image.open(io.BytesIO(picture), formats=[form]) as image:
            if image.width * image.height > _MAX_PIXELS:  # told by the header, before anything is decoded
                raise BadRecordError(f"it has {image.width} x {image.height} pixels")
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadRecordError(f"the {form} file cannot be read: {error}") from error
    png = io.BytesIO()
    upright.save(png, "PNG")
    return png.getvalue()
