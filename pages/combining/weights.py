"""The tab Weights: a slider a member on the simplex, and the weights that val says are best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from typing import Any

import streamlit as st

import modelopt_core as mo
from modelopt_core.errors import ModelOptError, unknown
from modelopt_core.steps.base import Knob
from modelopt_core.steps.ensemble import Solved, best_weights, greedy_weights
from pages.combining import said
from pages.draw import say, units
from pages.draw.say import plain
from pages.state import address, pool, stack
from pages.state.bench import Bench
from pages.state.knob import Handle
from pages.work.trial import Trial

WEIGHTS, DIAL, LOCKED = "Ensemble.weights", "Ensemble.dial", "Ensemble.locked"
KNOB = Knob(0.0, 1.0, 0.01, "w")
STEP = 0.01
NAMED = 3  # members whose names fit above their columns; more are numbered as the sliders are
FINEST = 1e-12  # nats: nearer than this is what rounding leaves


def settle(here: Bench) -> None:
    """As many weights as members, and a member that the Dial turns."""
    state, n = st.session_state, len(pool.current("Ensemble", here))
    address.take("dial", DIAL, lambda text: place(text, n))
    if state.get(WEIGHTS) and len(state[WEIGHTS]) != n:
        state[WEIGHTS] = ()
    if not state.get(DIAL) or int(state[DIAL]) > n:
        state[DIAL] = 1


def place(text: str, n: int) -> int:
    """The number of a member, 1 … n, as a link says it."""
    if text not in (places := [str(i + 1) for i in range(n)]):
        raise unknown("member for the dial", text, places)
    return int(text)


def held(n: int) -> tuple[float, ...]:
    """The n weights of the session, scaled to sum to 1."""
    given = st.session_state[WEIGHTS] or (1.0,) * n
    return tuple(w / sum(given) for w in given)


def turn(step: mo.Ensemble, here: Bench) -> Handle:
    """The Dial turns one member's weight; the others keep their proportions."""
    members = pool.current("Ensemble", here)
    n, at = len(members), st.session_state[DIAL] - 1
    weights, name = held(n), stack.names(members)[at]

    def with_weight(value: float) -> mo.Ensemble:
        return step.changed(weights=shared_out(weights, at, value))

    def keep(value: float) -> None:
        st.session_state[WEIGHTS] = with_weight(min(1.0, max(0.0, value))).weights

    about = f"The share of {name}; the other members share the rest as before."
    return Handle(
        f"weight of {name}", KNOB, f"Weight of {name}", about, round(weights[at], 2), with_weight, keep, f"for {name}"
    )


def shared_out(
    weights: Sequence[float], at: int, value: float, locked: frozenset[int] = frozenset()
) -> tuple[float, ...]:
    """Member `at` gets `value`, the locked ones keep theirs, the others share the rest in their proportions.

    weights sum to 1, and so do the new ones; where no other member is free, nothing changes.
    """
    free = [i for i in range(len(weights)) if i != at and i not in locked]
    if not free or at in locked:
        return tuple(weights)
    room = 1 - sum(weights[i] for i in locked)
    value = min(value, room)
    total = sum(weights[i] for i in free)
    shares = {i: weights[i] / total if total > 0 else 1 / len(free) for i in free}
    moved = {at: value, **{i: (room - value) * share for i, share in shares.items()}}
    return tuple(round(moved.get(i, weights[i]), 6) for i in range(len(weights)))


def draw(trial: Trial) -> None:
    """Sliders left, solved and picked weights right."""
    names = stack.names(trial.members)
    sliders, found = st.columns([3, 2], gap="large")
    with sliders:
        _sliders(names)
    with found:
        _found(trial, names)


def _sliders(names: Sequence[str]) -> None:
    weights, locked = held(len(names)), st.session_state.setdefault(LOCKED, frozenset())
    for i, name in enumerate(names):
        slider, lock, dial = st.columns([8, 1, 1], vertical_alignment="bottom", gap="small")
        key = f"Ensemble.weight.{i}"
        st.session_state[key] = round(weights[i], 2)
        slider.slider(
            plain(name), 0.0, 1.0, step=STEP, key=key, on_change=_moved, args=(i, key, len(names)), disabled=i in locked
        )
        _small(lock, "lock" if i in locked else "lock_open", f"Ensemble.lock.{i}", _lock, i,
               f"{'Unlock' if i in locked else 'Lock'} {name}: a locked weight stays.")  # fmt: skip
        on = st.session_state[DIAL] == i + 1
        _small(dial, f"radio_button_{'checked' if on else 'unchecked'}", f"Ensemble.turn.{i}", _turn, i,
               f"The Dial turns {name}.")  # fmt: skip
    with st.container(horizontal=True):
        st.button("Equal", icon=":material/balance:", on_click=_set, args=((),), key="Ensemble.equal")
        st.caption("Moving one shares out the rest; a lock keeps a weight; the dot chooses what the Dial turns.")


def _small(where: Any, icon: str, key: str, call: Callable[[int], None], at: int, about: str) -> None:
    where.button("", icon=f":material/{icon}:", key=key, type="tertiary", on_click=call, args=(at,), help=plain(about))


def _found(trial: Trial, names: Sequence[str]) -> None:
    """Yours, equal, solved and greedy: weights, log loss and score on val; a button takes one over."""
    rule, n = trial.step.rule, len(names)
    rows: list[tuple[str, tuple[float, ...], str]] = [("yours", held(n), ""), ("equal", (1 / n,) * n, "")]
    for label, solve in _solvers(rule).items():
        try:
            solved = said.kept(
                trial, f"{label} {rule}", partial(solve, said.log_probabilities(trial), said.truth(trial))
            )
            rows.append((label, solved.weights, f"within {max(solved.gap, FINEST):.0e} nats of the best"))
        except ModelOptError as error:
            say.caption(error)
    cells = [(label, weights, *said.judge(trial, weights), gap) for label, weights, gap in rows]
    body = "".join(
        f"<tr><td>{escape(label)}</td>"
        + "".join(f'<td class="mo-number">{w:.2f}</td>' for w in weights)
        + f'<td class="mo-number">{loss:.4f}</td><td class="mo-number">{units.percent(score)}</td></tr>'
        for label, weights, loss, score, _ in cells
    )
    heads = "".join(f'<th class="mo-number" title="{escape(name)}">{escape(name) if n <= NAMED else i + 1}</th>'
                    for i, name in enumerate(names))  # fmt: skip
    st.html(
        f'<div class="mo-scroll"><table class="mo-table"><thead><tr><td></td>{heads}<th class="mo-number">log loss</th>'
        f'<th class="mo-number">score</th></tr></thead><tbody>{body}</tbody></table></div>'
        '<p class="mo-foot">On val, which chose the weights; log loss in nats. Solved: '
        f"{escape(next((gap for label, *_, gap in cells if label == 'solved'), 'not convex for this rule'))}.</p>"
    )
    with st.container(horizontal=True):
        for label, weights, *_ in cells[2:]:
            st.button(plain(f"Use {label}"), on_click=_set, args=(weights,), key=f"Ensemble.use.{label}")


def _solvers(rule: str) -> dict[str, Callable[..., Solved]]:
    return {"solved": partial(best_weights, rule=rule), "greedy": greedy_weights}


def _moved(at: int, key: str, n: int) -> None:
    """Callback: share out the rest. A browser that still shows the tab that was just left says nothing new."""
    if st.session_state[key] == round(held(n)[at], 2):
        return
    _set(shared_out(held(n), at, float(st.session_state[key]), st.session_state[LOCKED]))


def _set(weights: tuple[float, ...]) -> None:
    st.session_state[WEIGHTS] = tuple(round(w, 6) for w in weights)
    st.rerun()


def _lock(at: int) -> None:
    st.session_state[LOCKED] = st.session_state[LOCKED] ^ {at}


def _turn(at: int) -> None:
    st.session_state[DIAL] = at + 1
    st.rerun()
