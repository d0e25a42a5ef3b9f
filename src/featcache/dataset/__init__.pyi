from .augmentation import affine_maps as affine_maps, augment as augment
from .corrections import Correction as Correction, read_corrections as read_corrections
from .decoding.decode import BORDER as BORDER, decode_rgb as decode_rgb
from .decoding.versions import DECODE_SETTINGS as DECODE_SETTINGS, MOST_BYTES as MOST_BYTES
from .file_stats import FileStats as FileStats
from .listing import (
    current_key as current_key,
    list_files as list_files,
    list_images as list_images,
    preview_images as preview_images,
    survey_images as survey_images,
)
from .manifest import Manifest as Manifest, stored_manifest as stored_manifest
from .pixel_array import (
    LUMA as LUMA,
    Loader as Loader,
    Pixels as Pixels,
    load_pixels as load_pixels,
    luminance as luminance,
)
from .recognition import only_folder as only_folder, recognise as recognise
from .sources.scan import image_files as image_files
from .sources.source import open_source as open_source
