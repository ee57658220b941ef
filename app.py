"""ModelOpt Studio: the frame around the pages. Streamlit runs this file; it only routes."""

import streamlit as st
from streamlit.starlette import App

from pages.server import serve

PAGES = {
    "": {"home": "Home"},
    "Optimize": {"prune": "Prune", "quantize": "Quantize", "distill": "Distill"},
    "Combine": {"ensemble": "Ensemble", "cascade": "Cascade", "pipeline": "Pipeline", "fuse": "Fuse"},
}


def draw() -> None:
    """The frame, and in it the page that the URL names."""
    from modelopt_core.errors import ModelOptError
    from modelopt_core.machine.folders import asset_path
    from pages.draw import say
    from pages.frame import sidebar
    from pages.state import address, bench, pin

    st.set_page_config(
        page_title="ModelOpt Studio",
        page_icon=str(asset_path("favicon.svg")),
        layout="wide",
        initial_sidebar_state="collapsed" if bench.presenting() else "auto",
    )
    st.logo(str(asset_path("logo.svg")), size="large")
    st.html(asset_path().parent / "pages" / "frame" / "style.css")
    pages = {
        section: [st.Page(f"pages/{name}.py", title=title, default=name == "home") for name, title in titles.items()]
        for section, titles in PAGES.items()
    }
    page = st.navigation(pages, position="hidden")
    try:
        address.read()
        here = bench.prepare()
        pin.take(here)
        address.own({})
        place = sidebar.draw(here, pages, page)
        try:
            page.run()
        finally:
            sidebar.buttons(place, page.title)
        address.write()
        address.tell_notes()
    except ModelOptError as error:
        say.error(str(error))


if __name__ == "__main__":  # a rerun
    draw()
else:  # `streamlit run app.py` looks for an App, and serves it with the launcher's Host check and headers
    app = App(**serve.settings())
