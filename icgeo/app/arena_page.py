"""The page of the arena: a photo, two answers without names, a vote; needs the extra [demo].

Conventions: the duels of a visitor live in the session; all visitors vote into the same file.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from icgeo.app import duels as session
from icgeo.app.duels import BETTER, Duel
from icgeo.data.photos import read_photo
from icgeo.evaluation.arena import add_vote
from icgeo.plots import plot_answers

KEPT_SECONDS = 3600
PHOTO_SIZE = (900, 560)
"""Pixels that the width and the height of a photo that is shown have at most."""
_INTRO = """# GeoArena
Which answer is better? Look at the photo and at both places, then vote; whose answers they were is
told after the last vote on a photo. Nothing is fetched from elsewhere; votes are kept in a file on
this server."""
_DONE = "**No photos are left to vote on.** Thank you."


def build(duels: Sequence[Duel], votes: Path) -> Any:
    """Make the page, a `gradio.Blocks`, on which duels are voted on."""
    with gr.Blocks(
        title="GeoArena", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)
    ) as page:
        gr.Markdown(_INTRO)
        left = gr.State((), time_to_live=KEPT_SECONDS)
        with gr.Row(equal_height=False):
            with gr.Column(min_width=320):
                look: dict[str, Any] = {"show_label": False, "buttons": [], "interactive": False}
                photo = gr.Image(type="pil", alt_text="Photo", elem_id="photo", **look)
            with gr.Column(min_width=320):
                world = gr.Plot(show_label=False, elem_id="answers")
                text = gr.Markdown(elem_id="places")
        with gr.Row():
            buttons = [
                gr.Button(said, variant="primary", min_width=90, elem_id=f"vote-{number}")
                for number, said in enumerate(BETTER)
            ]
            skip = gr.Button("Skip", min_width=90, elem_id="skip")
        status = gr.Markdown(elem_id="status")
        with gr.Accordion("Ratings so far", open=False, elem_id="ratings"):
            table = gr.Markdown(elem_id="table")
        shown = [left, photo, world, text, *buttons, skip]
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

        def start() -> list[Any]:
            return [*_show(session.left_to_vote(duels, votes)), session.standings(votes)]

        page.load(start, None, [*shown, table], **quiet)
        for button, said in zip(buttons, BETTER, strict=True):
            vote = partial(_vote, votes, said)
            button.click(vote, left, [*shown, status, table], trigger_mode="once", **quiet)
        skip.click(lambda duels: _show(duels[1:]), left, shown, trigger_mode="once", **quiet)
    return page


def _vote(votes: Path, said: str, left: Sequence[Duel]) -> list[Any]:
    """Keep a vote, tell whose answers they were, and show the next photo."""
    if not left:
        return [*_show(left), gr.skip(), gr.skip()]
    add_vote(votes, left[0].vote(BETTER[said]))
    return [*_show(left[1:]), session.reveal(left[0], said, left[1:]), session.standings(votes)]


def _show(left: Sequence[Duel]) -> list[Any]:
    """What the parts of the page show of the first duel that is left."""
    buttons = [gr.update(interactive=bool(left)) for _ in (*BETTER, "skip")]
    if not left:
        return [(), None, None, _DONE, *buttons]
    duel = left[0]
    photo = read_photo(duel.photo, size_hint=max(PHOTO_SIZE))
    photo.thumbnail(PHOTO_SIZE)
    figure = plot_answers(duel.a.place, duel.b.place)
    text = f"{session.describe(duel)}\n\n{len(left)} to go."
    return [tuple(left), photo, figure, text, *buttons]
