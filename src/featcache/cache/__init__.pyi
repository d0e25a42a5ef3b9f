from .block_writer import write_block as write_block
from .check import check_cache as check_cache, checked_cache as checked_cache
from .file_lock import is_held as is_held, lock as lock
from .layout import (
    FEATURE_DTYPE as FEATURE_DTYPE,
    MIRROR as MIRROR,
    PARTIAL_SUFFIX as PARTIAL_SUFFIX,
    CacheHeader as CacheHeader,
    Status as Status,
    TapLayout as TapLayout,
    block_range as block_range,
    copy_name as copy_name,
    default_block_rows as default_block_rows,
    file_key as file_key,
    partial_path as partial_path,
    partials_of as partials_of,
)
from .npy_export import export_npy as export_npy
from .reader import Reader as Reader, open_cache as open_cache, stored_record as stored_record
from .row_lookup import RowFinder as RowFinder, find_rows as find_rows, rows_of_digests as rows_of_digests
from .writer import CacheWriter as CacheWriter
