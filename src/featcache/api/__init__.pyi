from .encoding import encode as encode
from .fitted_project import FittedProject as FittedProject
from .fitting import fit as fit, load_project as load_project
