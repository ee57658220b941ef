"""A button that copies the page's address, which holds the whole state, and says that it did."""

from __future__ import annotations

import streamlit as st

_button = st.components.v2.component(
    "modelopt_copy_link",
    html="""<button type="button">Copy link</button>
<span role="status" aria-live="polite"></span>
""",
    css="""
button {
  width: 100%; height: 2.5rem; font: inherit; color: var(--st-text-color); cursor: pointer;
  background: var(--st-secondary-background-color); border: 1px solid var(--st-border-color);
  border-radius: var(--st-button-radius);
}
button:hover { border-color: var(--st-primary-color); color: var(--st-primary-color); }
button:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 1px; }
span { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
""",
    js="""
const SAID_MS = 2500;

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea"); // no permission, or a page that is not served securely
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

export default function ({ parentElement }) {
  const button = parentElement.querySelector("button");
  const status = parentElement.querySelector("span");
  button.onclick = async () => {
    const done = await copy(location.href);
    button.textContent = done ? "Link copied" : "Copy the address bar";
    status.textContent = done ? "Link copied to the clipboard" : "The link could not be copied";
    clearTimeout(button.timer);
    button.timer = setTimeout(() => {
      button.textContent = "Copy link";
      status.textContent = "";
    }, SAID_MS);
  };
  return () => clearTimeout(button.timer);
}
""",
)


def copy_link(key: str) -> None:
    """Draw the button."""
    _button(key=key, data={})
