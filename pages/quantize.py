"""Quantize: fewer bits for every weight."""

import modelopt_core as mo
from modelopt_core.measuring.measurement import Measurement
from pages.frame import technique_page
from pages.quantizing import article, bits, check, error, file, weights
from pages.tabs import layer_table


def bars(_: mo.Quantize) -> layer_table.Bars:
    """Bits a weight, of the 32 of a float."""
    return layer_table.BITS


def note(step: mo.Quantize, found: Measurement) -> str:
    """Which kernels ran: integer ones, some of both, or floats that lie on a grid."""
    if "int8" in found.runtime or "4-bit" in found.runtime:
        return "" if found.score.how == "measured" else "integer kernels ran, but not in every layer"
    return f"no integer kernel for {step.bits} bit{'s' if step.bits > 1 else ''}: stored small, runs at float speed"


technique_page.page(
    technique_page.Technique(
        step=mo.Quantize,
        knob="bits",
        question="Where will it break? How few bits are enough?",
        bars=bars,
        note=note,
        unit="bits",
        labels={
            "none": "nothing",
            "0": "the runtime's",
            "fold": "fold norms",
            "equalise": "fold and equalise",
            "bias": "correct means",
            "train": "train",
            "lsq": "train steps too",
        },
        tabs={"Weights": weights.draw, "Error": error.draw, "File": file.draw, "Check": check.draw},
        always={"Bits": bits.draw, "Article": article.draw},
        order=("Layers", "Bits", "Weights", "Error", "File", "Check", "Article"),
        settle=bits.settle,
        aside=("group", "examples", "prepare", "activations", "recovery", "epochs", "lr"),
    )
)
