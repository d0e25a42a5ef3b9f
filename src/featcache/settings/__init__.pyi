from .architectures import (
    HUB as HUB,
    MODEL_SUFFIX as MODEL_SUFFIX,
    OUTPUT as OUTPUT,
    Architecture as Architecture,
    backbone_settings as backbone_settings,
    find_architecture as find_architecture,
    has_own_weights as has_own_weights,
    is_model_file as is_model_file,
    is_preset as is_preset,
)
from .augment_policy import CONVNET_RECIPE as CONVNET_RECIPE, AugmentPolicy as AugmentPolicy
from .backbones import features_text as features_text
from .parsing import (
    FORMER_DEFAULTS as FORMER_DEFAULTS,
    SECTIONS as SECTIONS,
    Settings as Settings,
    check_names as check_names,
    full_texts as full_texts,
    parse_settings as parse_settings,
)
from .schedules import ONE_CYCLE as ONE_CYCLE, Phase as Phase, rates as rates
from .specs import (
    ALONE as ALONE,
    AUTO as AUTO,
    CROP as CROP,
    GROUP as GROUP,
    IGNORE as IGNORE,
    KERAS as KERAS,
    LOCAL as LOCAL,
    LOG_LOSS as LOG_LOSS,
    METHODS as METHODS,
    PAD as PAD,
    PHOTO_SOURCES as PHOTO_SOURCES,
    PRECISIONS as PRECISIONS,
    STRETCH as STRETCH,
    TRAINING_PRECISIONS as TRAINING_PRECISIONS,
    ClusterSpec as ClusterSpec,
    ConvNetSpec as ConvNetSpec,
    DatasetSpec as DatasetSpec,
    FeaturesSpec as FeaturesSpec,
    HeadsSpec as HeadsSpec,
    SubmissionSpec as SubmissionSpec,
    one_of as one_of,
)
from .tap import Tap as Tap
