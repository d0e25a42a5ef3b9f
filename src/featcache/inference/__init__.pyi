from .bundle import bundle_lines as bundle_lines, write_bundle as write_bundle
from .explainer import (
    Explainer as Explainer,
    Explanation as Explanation,
    Wanted as Wanted,
    explanation_lines as explanation_lines,
    explanation_record as explanation_record,
    write_overlay as write_overlay,
)
from .export import export_model as export_model, exported_lines as exported_lines
from .predictor import (
    Prediction as Prediction,
    Predictor as Predictor,
    count_images as count_images,
    find_images as find_images,
    prediction_lines as prediction_lines,
    prediction_record as prediction_record,
    rejected_line as rejected_line,
    write_csv as write_csv,
)
