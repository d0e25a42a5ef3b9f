from .cases import by_case as by_case
from .convnet.checkpoints import (
    RECORD_FILE as RECORD_FILE,
    PartialFolder as PartialFolder,
    model_path as model_path,
)
from .convnet.model import (
    PREDICT_BATCH as PREDICT_BATCH,
    load_network as load_network,
    load_networks as load_networks,
    predict_convnet as predict_convnet,
)
from .convnet.plan import (
    CONVNET_VERSION as CONVNET_VERSION,
    ConvNetPlan as ConvNetPlan,
    TrainingData as TrainingData,
    member_settings as member_settings,
    resolve_convnet as resolve_convnet,
)
from .convnet.trainer import train_network as train_network
from .folds import NO_FOLD as NO_FOLD, assign_folds as assign_folds, fold_notices as fold_notices
from .heads.bag import Bag as Bag, TrainedBag as TrainedBag, load_bag as load_bag, save_bag as save_bag
from .heads.examples import Examples as Examples, PseudoLabels as PseudoLabels
from .heads.inputs import (
    Features as Features,
    HeadInput as HeadInput,
    fit_input as fit_input,
    joined_inputs as joined_inputs,
    stored_rows as stored_rows,
)
from .heads.keras_engine import KerasEngine as KerasEngine, accelerated as accelerated
from .heads.keras_models import head_model as head_model, input_model as input_model
from .heads.lda import train_lda as train_lda
from .heads.logistic_regression import train_linear as train_linear
from .heads.overfitting import (
    CurveDiagnosis as CurveDiagnosis,
    curves_lines as curves_lines,
    curves_record as curves_record,
    diagnose as diagnose,
    suggestions as suggestions,
)
from .heads.partition import Partition as Partition, by_folds as by_folds, by_groups as by_groups
from .heads.presets import (
    BY_GROUP as BY_GROUP,
    LDA as LDA,
    LINEAR as LINEAR,
    PATHS as PATHS,
    PSEUDO as PSEUDO,
    HeadPlan as HeadPlan,
    first_round as first_round,
    head_type_settings as head_type_settings,
    head_types as head_types,
    normalizes as normalizes,
    resolve_heads as resolve_heads,
    training_version as training_version,
)
from .heads.trainer import MakeEngine as MakeEngine, train_heads as train_heads
from .label_metrics import check_metric as check_metric
from .member_tables import (
    Float32s as Float32s,
    RowNumbers as RowNumbers,
    Tables as Tables,
    label_probabilities as label_probabilities,
    row_parts as row_parts,
    table_parts as table_parts,
)
from .metrics import (
    Float64s as Float64s,
    Interval as Interval,
    RowScores as RowScores,
    Scores as Scores,
    bootstrap as bootstrap,
    judge_parts as judge_parts,
    log_loss as log_loss,
    row_losses as row_losses,
)
from .named_metrics import (
    Judged as Judged,
    Metric as Metric,
    kappa_of_sums as kappa_of_sums,
    metric_spans as metric_spans,
    surely_better as surely_better,
)
from .predictions import (
    RECORDED as RECORDED,
    Predictions as Predictions,
    check_members as check_members,
    joined_members as joined_members,
    stored_members as stored_members,
    stored_probabilities as stored_probabilities,
    write_predictions as write_predictions,
)
from .several_labels import cells as cells
