from .content import report_content as report_content
from .image_sections import Explained as Explained
from .render import render_page as render_page
from .suspects import (
    suspects_lines as suspects_lines,
    suspects_record as suspects_record,
    write_suspects as write_suspects,
)
