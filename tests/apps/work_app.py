"""One page for a step that trains, in the app's own frame: for tests of long work.

Where MODELOPT_COUNT names a file, every run of this script adds a line with its process there.
"""

import os
from pathlib import Path

import streamlit as st

import modelopt_core as mo
from modelopt_core.machine.folders import asset_path
from pages.frame import sidebar, technique_page
from pages.state import address, bench, pin
from pages.tabs import layer_table

if "MODELOPT_COUNT" in os.environ:
    with Path(os.environ["MODELOPT_COUNT"]).open("a") as file:
        file.write(f"{os.getpid()}\n")

st.set_page_config(layout="wide")
st.html(asset_path().parent / "pages" / "frame" / "style.css")


def page() -> None:
    """Finetune in the frame."""
    technique_page.page(
        technique_page.Technique(
            step=mo.Finetune,
            knob="epochs",
            question="How much comes back?",
            bars=lambda _: layer_table.WEIGHTS,
            note=lambda *_: "",
        )
    )


PAGES = {"": [st.Page(page, title="Finetune", default=True)]}
shown = st.navigation(PAGES, position="hidden")
address.read()
here = bench.prepare()
pin.take(here)
address.own({})
place = sidebar.draw(here, PAGES, shown)
shown.run()
sidebar.buttons(place, shown.title)
address.write()
address.tell_notes()
