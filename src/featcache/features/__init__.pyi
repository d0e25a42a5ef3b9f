from .backbone import Backbone as Backbone, load_backbone as load_backbone
from .batch_pipeline import (
    STREAMS as STREAMS,
    CopySink as CopySink,
    Features as Features,
    ForwardPass as ForwardPass,
    TimeSpent as TimeSpent,
    compute as compute,
)
from .devices import (
    Device as Device,
    find_device as find_device,
    gpu_kernels as gpu_kernels,
    processor as processor,
)
from .download import Limits as Limits, check_reachable as check_reachable
from .extract import (
    CopyJob as CopyJob,
    ExtractionEngine as ExtractionEngine,
    extract_copies as extract_copies,
)
from .extraction_job import Extraction as Extraction, row_settings as row_settings
from .network import build_network as build_network, map_name as map_name
from .precision import Precision as Precision, choose_precision as choose_precision
from .self_check import load_checked as load_checked
from .weights import (
    ResolvedWeights as ResolvedWeights,
    check_cached as check_cached,
    imagenet_file as imagenet_file,
    imagenet_url as imagenet_url,
    is_record_of as is_record_of,
    known_digest as known_digest,
    named_file as named_file,
    resolve_weights as resolve_weights,
)
