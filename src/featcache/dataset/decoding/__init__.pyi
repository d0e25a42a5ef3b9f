from .decode import (
    BORDER as BORDER,
    decode_rgb as decode_rgb,
    header_fault as header_fault,
    image_digest as image_digest,
    resize_rgb as resize_rgb,
)
from .image_file import decoding_rules as decoding_rules
from .pillow import image_sides as image_sides
