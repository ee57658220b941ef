"""ModelOpt Studio: the frame around the pages. Streamlit runs this file; it only routes."""

import streamlit as st

from modelopt_core.assets import asset_path
from modelopt_core.errors import ModelOptError
from pages.shared import address, bench, pin, sidebar

PAGES = {
    "": [st.Page("pages/home.py", title="Home", default=True)],
    "Optimize": [
        st.Page("pages/prune.py", title="Prune"),
        st.Page("pages/quantize.py", title="Quantize"),
        st.Page("pages/distill.py", title="Distill"),
    ],
    "Combine": [
        st.Page("pages/ensemble.py", title="Ensemble"),
        st.Page("pages/cascade.py", title="Cascade"),
        st.Page("pages/pipeline.py", title="Pipeline"),
        st.Page("pages/fuse.py", title="Fuse"),
    ],
}

st.set_page_config(
    page_title="ModelOpt Studio",
    page_icon=str(asset_path("favicon.svg")),
    layout="wide",
    initial_sidebar_state="collapsed" if bench.presenting() else "auto",
)
st.logo(str(asset_path("logo.svg")), size="large")
st.html(asset_path().parent / "pages" / "shared" / "style.css")

page = st.navigation(PAGES, position="hidden")
try:
    address.read()
    here = bench.prepare()
    pin.take(here)
    address.own({})
    place = sidebar.draw(here, PAGES, page)
    try:
        page.run()
    finally:
        sidebar.buttons(place, page.title)
    address.write()
    address.tell_notes()
except ModelOptError as error:
    st.error(str(error), icon=":material/error:")
