"""A board of Grafana as JSON, of panels that say what they ask for and from where on it is too much."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

_SCHEMA_VERSION = 39  # of Grafana 10 and 11; later ones take it
_COLUMNS, _HEIGHT = 24, 8
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """One chart. queries: {legend: PromQL}.

    unit: Grafana's name of it. limit: from where on values are red. about: what to do then. most: of the axis.
    needs_gpu: there is no data where no node has one.
    """

    title: str
    about: str
    unit: str
    queries: Mapping[str, str]
    limit: float | None = None
    most: float | None = None
    width: int = 8
    is_stacked: bool = False
    is_logarithmic: bool = False
    needs_gpu: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Board:
    """name: of its file. variables: {name: the label's values it offers, a metric's}."""

    name: str
    title: str
    panels: Sequence[Panel]
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def as_json(self) -> str:
        """What Grafana imports, the same whenever it is made."""
        return json.dumps(self._content(), indent=1, ensure_ascii=False) + "\n"

    def _content(self) -> dict[str, Any]:
        source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
        chosen = [_variable(name, metric) for name, metric in self.variables.items()]
        return {
            "uid": f"wave-wizard-{self.name}",
            "title": self.title,
            "tags": ["wave-wizard"],
            "schemaVersion": _SCHEMA_VERSION,
            "editable": True,
            "refresh": "30s",
            "time": {"from": "now-3h", "to": "now"},
            "links": [
                {"type": "dashboards", "title": "Wave Wizard", "tags": ["wave-wizard"], "asDropdown": True}
            ],
            "templating": {"list": [source, *chosen]},
            "panels": [
                _chart(number, panel, place)
                for number, (panel, place) in enumerate(
                    zip(self.panels, _places(self.panels), strict=True), 1
                )
            ],
        }


def _variable(name: str, metric: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": _SOURCE,
        "query": f"label_values({metric}, {name})",
        "refresh": 2,  # whenever the time changes
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _places(panels: Sequence[Panel]) -> list[dict[str, int]]:
    """From left to right, line by line."""
    places, x, y = [], 0, 0
    for panel in panels:
        if x + panel.width > _COLUMNS:
            x, y = 0, y + _HEIGHT
        places.append({"x": x, "y": y, "w": panel.width, "h": _HEIGHT})
        x += panel.width
    return places


def _chart(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    drawn: dict[str, Any] = {
        "lineWidth": 2,
        "fillOpacity": 25 if panel.is_stacked else 5,
        "showPoints": "never",
        "stacking": {"mode": "normal" if panel.is_stacked else "none"},
        "scaleDistribution": {"type": "log", "log": 10} if panel.is_logarithmic else {"type": "linear"},
        "thresholdsStyle": {"mode": "off" if panel.limit is None else "dashed"},
    }
    axis: dict[str, float] = {} if panel.is_logarithmic else {"min": 0}
    if panel.most is not None:
        axis["max"] = panel.most
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                **axis,
                "custom": drawn,
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
    }
