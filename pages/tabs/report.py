"""One file to hand out: the numbers of a setting and everything that is needed to get them again."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from html import escape

import modelopt_core as mo
from modelopt_core.models import identity
from pages.draw import units
from pages.state import stack
from pages.tabs import cards, source
from pages.work.trial import Trial

PACKAGES = ("torch", "onnxruntime", "numpy", "streamlit")
STYLE = """
body { font: 16px/1.5 -apple-system, 'Segoe UI', Roboto, Arial, 'Liberation Sans', sans-serif; margin: 3rem auto;
  max-width: 60rem; padding: 0 1rem; color: #0f172a; background: #fff; }
h1 { letter-spacing: -0.02em; } p, small, dt { color: #5b677a; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 1rem; }
.card { border: 1px solid #e2e8f0; border-radius: 12px; padding: 1rem 1.25rem; }
.card strong { display: block; font-size: 2.2rem; } .score strong { color: #2563eb; }
.size strong { color: #ea580c; } .latency strong { color: #059669; }
pre { background: #f1f5f9; border-radius: 8px; padding: 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: 12rem 1fr; gap: 0.2rem 1rem; } dd { margin: 0; overflow-wrap: anywhere; }
"""


def html(trial: Trial, note: str) -> str:
    """A self-contained HTML page; every text in it is escaped, it loads nothing. note: an honest word on speed."""
    step, here = trial.step, trial.bench
    title = f"{step.name} on {here.workload.title}, {trial.subject}"
    shown = "".join(
        f'<div class="card {card.kind}">{escape(card.title)} <small>({escape(card.how)})</small>'
        f"<strong>{escape(card.value)}</strong><b>{escape(card.change)}</b><br><small>{escape(card.detail)}<br>"
        f"{escape(card.note)}</small></div>"
        for card in cards.cards(trial)
    )
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in provenance(trial).items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1><p>{escape(step.sentence)}</p>"
        f'<div class="cards">{shown}</div><p>{escape(cards.basis(trial))}</p><p>{escape(note)}</p>'
        f"<h2>Where these numbers come from</h2><dl>{facts}</dl>"
        f"<h2>The recipe</h2><pre>{escape(mo.to_json((step,)))}</pre><pre>{escape(source.python(trial))}</pre>"
        f"<pre>{escape(source.command(trial))}</pre></body></html>\n"
    )


def provenance(trial: Trial) -> dict[str, str]:
    """Data, model, runtime, versions, machine and date."""
    here, m = trial.bench, trial.measurement
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return {
        "workload": f"{here.workload.title}: {here.workload.note}",
        "data, sha256": here.workload.data_hash,
        "model": f"{trial.subject}, {units.whole(trial.start.parameters)} parameters",
        "model, sha256": " ".join(map(identity.key, stack.models(trial.members, here.workload) or [here.model])),
        "split": f"val, {units.whole(m.score.n)} examples",
        "runtime": f"{m.runtime}, {m.threads} thread, batch {m.batch}, {m.device}",
        "versions": f"modelopt-studio {_version()}, {versions}, Python {platform.python_version()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _version() -> str:
    from modelopt_core import __version__

    return __version__
