"""The explorer in a notebook: widgets where somebody watches, a picture and a table where nobody does."""

import io
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from realm_lib.data.chats import readable
from realm_lib.evaluation.result import Evaluation
from realm_lib.report.explorer.comparing import LENGTHS, Comparison, ExplorerError, WrongPairs, compare
from realm_lib.report.figures import responses_on_surface, set_theme
from realm_lib.reward.realm_reward import RealmReward
from realm_lib.runs.run import show_progress

if TYPE_CHECKING:
    import ipywidgets

_OWN = "your own prompt"
_OFFERED = 20  # posts to pick from
_LISTED = 200  # wrong pairs in the list
_WIDE = {"width": "99%"}


class Explorer:
    """Two responses to a prompt side by side, and the pairs that the reward gets wrong.

    In JupyterLab it is a panel: pick or type a prompt, type two responses, press Compare; or browse the wrong pairs
    and put one of them there. Where no one watches (papermill, REALM_QUIET) or with ``interactive`` False it shows the
    first test pair as a table and a picture, so that a rendered notebook has something to see.

    ``features`` are the test pairs that ``evaluation`` judged, with their texts.
    """

    def __init__(
        self, reward: RealmReward, features: pd.DataFrame, evaluation: Evaluation, *, interactive: bool | None = None
    ) -> None:
        self.reward = reward
        self.features = features.reset_index(drop=True)
        self.scale = evaluation.scales[evaluation.subject]
        self.wrong = WrongPairs.of(evaluation, self.features)
        self.interactive = show_progress() if interactive is None else interactive
        self.shown = self._of_pair(0)
        """The comparison that is on display."""
        self.message = ""
        """Why the last one could not be made; empty when it could."""
        if self.interactive:
            self._build()

    def compare(self, prompt: str, first: str, second: str, preferred: int | None = None) -> Comparison:
        """Compare two responses; what the button does. Raises :class:`ExplorerError`."""
        return compare(self.reward, prompt, (first, second), scale=self.scale, preferred=preferred)

    def figure(self) -> Figure:
        """Where the responses on display fall on the surface of the combined reward over its two strongest features."""
        set_theme()
        combiner = self.reward.combiner
        panels = 1 if len(combiner.features) == 2 else 2
        figure = Figure(figsize=(6.6 * panels, 4.6), layout="constrained")
        axes, names = figure.subplots(1, panels, squeeze=False)[0], combiner.features
        responses_on_surface(combiner.reward, self.features, self.shown.values(names), axes, names=names)
        return figure

    def picture(self) -> bytes:
        """:meth:`figure` as PNG."""
        buffer = io.BytesIO()
        self.figure().savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()

    def _of_pair(self, row: int) -> Comparison:
        pair = self.features.iloc[row]
        preferred = 0 if pair["labels"] == 1 else 1
        return self.compare(pair["history"], pair["human_ref_A"], pair["human_ref_B"], preferred)

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, Image, display

        if self.interactive:
            display(self.panel)
            return
        note = "<p>Run this notebook in JupyterLab to type prompts and responses of your own.</p>"
        display(HTML(self.shown.texts_to_html() + self.shown.to_html() + note))
        display(Image(self.picture()))

    # Widgets

    def _build(self) -> None:
        import ipywidgets as widgets

        new = ~self.features["history"].duplicated().to_numpy()
        rows = [int(row) for row in new.nonzero()[0][:_OFFERED]]
        offered = [(_OWN, -1), *((_short(readable(self.features["history"].iloc[row]), 90), row) for row in rows)]
        self.pick = widgets.Dropdown(options=offered, value=0, layout=_WIDE)
        self.prompt, self.first, self.second = (
            widgets.Textarea(layout={"width": "99%", "height": height}) for height in ("70px", "110px", "110px")
        )
        self.button = widgets.Button(description="Compare", button_style="primary", icon="balance-scale")
        self.answer = widgets.HTML()
        self.surface = widgets.Image(format="png", layout={"max_width": "660px", "width": "100%", "height": "auto"})

        self.domain = widgets.Dropdown(options=self.wrong.domains)
        self.sure = widgets.FloatRangeSlider(
            value=(0.5, 1.0), min=0.5, max=1.0, step=0.01, readout_format=".0%", continuous_update=False
        )
        self.length = widgets.Dropdown(options=list(LENGTHS))
        self.votes = widgets.FloatSlider(
            value=1.0, min=1.0, max=10.0, step=0.5, readout_format=".1f", continuous_update=False,
            disabled="score_ratio" not in self.wrong.table,
        )  # fmt: skip
        self.count = widgets.HTML()
        self.pairs = widgets.Select(rows=8, layout=_WIDE)

        self.pick.observe(self._on_pick, "value")
        self.button.on_click(self._on_compare)
        for control in (self.domain, self.sure, self.length, self.votes):
            control.observe(self._on_filter, "value")
        self.pairs.observe(self._on_pair, "value")
        self._fill()
        self._show()
        self._on_filter()
        self.panel = self._laid_out()

    def _laid_out(self) -> "ipywidgets.Widget":
        import ipywidgets as widgets

        def labelled(text: str, control: Any, width: str = "100%") -> Any:
            return widgets.VBox([widgets.HTML(f"<b>{text}</b>"), control], layout={"width": width})

        sides = [labelled("Response A", self.first, "50%"), labelled("Response B", self.second, "50%")]
        responses = widgets.HBox(sides, layout={"grid_gap": "8px"})
        controls = [
            labelled("Domain", self.domain, "auto"),
            labelled("How sure it was", self.sure, "auto"),
            labelled("Length", self.length, "auto"),
            labelled("Votes of the preferred one, times the other's", self.votes, "auto"),
        ]
        filters = widgets.HBox(controls, layout={"flex_flow": "row wrap", "grid_gap": "12px"})
        return widgets.VBox(
            [
                labelled("Prompt: pick one, or type your own", self.pick),
                self.prompt,
                responses,
                self.button,
                self.answer,
                self.surface,
                widgets.HTML("<h4>Pairs that the reward gets wrong</h4>"),
                filters,
                self.count,
                self.pairs,
            ],
            layout={"grid_gap": "6px", "max_width": "960px"},
        )

    def _on_pick(self, _: Any = None) -> None:
        if self.pick.value == -1:
            self.prompt.value = self.first.value = self.second.value = ""
            return
        self._show_or_say(lambda: self._of_pair(self.pick.value), fill=True)

    def _on_compare(self, _: Any = None) -> None:
        typed = (self.prompt.value, self.first.value, self.second.value)
        same = typed == (self.shown.prompt, *self.shown.responses)
        if not same:
            # What was typed is none of the offered posts' pairs any more; choosing this again would empty the fields.
            self.pick.unobserve(self._on_pick, "value")
            self.pick.value = -1
            self.pick.observe(self._on_pick, "value")
        self._show_or_say(lambda: self.compare(*typed, preferred=self.shown.preferred if same else None))

    def _on_filter(self, _: Any = None) -> None:
        wrong = self.wrong.select(self.domain.value, self.sure.value, self.length.value, self.votes.value)
        listed = f", the {_LISTED} surest are listed" if len(wrong) > _LISTED else ""
        self.count.value = f"{len(wrong):,} of {len(self.wrong.table):,} wrong pairs{listed}"
        self.pairs.options = [
            (f"{sure:.0%} sure · {domain} · {_short(readable(prompt), 80)}", row)
            for row, sure, domain, prompt in wrong[["sure", "domain", "prompt"]].head(_LISTED).itertuples()
        ]
        self.pairs.value = None

    def _on_pair(self, change: Any) -> None:
        if change["new"] is None:
            return
        pair = self.wrong.table.loc[change["new"]]
        self._show_or_say(lambda: self.compare(pair["prompt"], pair["chosen"], pair["rejected"], 0), fill=True)

    def _show_or_say(self, make: Any, fill: bool = False) -> None:
        try:
            self.shown, self.message = make(), ""
        except ExplorerError as error:
            self.message = str(error)
            self.answer.value = f"<p role='alert'><b>{escape(self.message)}</b></p>"
            return
        if fill:
            self._fill()
        self._show()

    def _fill(self) -> None:
        self.prompt.value = self.shown.prompt
        self.first.value, self.second.value = self.shown.responses

    def _show(self) -> None:
        self.answer.value = self.shown.to_html()
        self.surface.value = self.picture()


def _short(text: str, most: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"
