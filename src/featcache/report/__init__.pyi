from .content import report_content as report_content
from .render import render_page as render_page
