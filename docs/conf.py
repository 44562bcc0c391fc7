"""Settings of the documentation site; ``make docs`` builds it into build/docs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

project = 'convnext_backbones'
extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'dev.docs_pages',  # fills in tables and help texts
]
exclude_patterns = ['_*']

# --- pages ----------------------------------------------------------------------------------

myst_heading_anchors = 3
myst_links_external_new_tab = False

# --- API ------------------------------------------------------------------------------------

autodoc_member_order = 'bysource'
autodoc_typehints = 'description'  # beside the arguments, whose docstrings have none
autodoc_typehints_description_target = 'documented'
autodoc_class_signature = 'mixed'
add_module_names = False
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes as a list, not as entries of their own

# --- appearance: everything is served from the site itself, so that it works offline -----------

html_theme = 'pydata_sphinx_theme'
html_title = project
html_theme_options = {
    'logo': {'text': project},
    'navbar_center': [],
    'navbar_end': ['theme-switcher'],
    'secondary_sidebar_items': ['page-toc'],
    'primary_sidebar_end': [],
    'article_header_start': [],
    'footer_start': [],
    'footer_end': [],
    'show_toc_level': 2,
    'pygments_light_style': 'tango',
}
html_sidebars = {'**': ['all-pages']}
html_static_path = ['_static']
html_css_files = ['site.css']
templates_path = ['_templates']
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_show_sphinx = False
