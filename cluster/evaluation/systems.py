"""What is compared: bundles and checkpoints, trainings that differ in their seed, and files of other programs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.evaluation.clips import EvaluationError
from cluster.evaluation.scores import CLEAN, NOISY, ModelFacts
from ww_models import BundleInfo, Denoiser, load_bundle, read_bundle_info
from ww_models.bundle.facebook_denoiser import load_denoiser_checkpoint
from ww_models.streaming.onnx_engine import OnnxEngine


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ModelSystem:
    """A model under the name that the report calls it by.

    group: of the trainings that it is one of, or "". info: None for a checkpoint of facebook's denoiser.
    """

    name: str
    path: str
    model: Denoiser
    info: BundleInfo | None
    group: str = ""

    def describe(self, real_time_factor: float, manifest_hash: str) -> ModelFacts:
        """manifest_hash: of the corpus that is scored on, or ""."""
        trained_on = self.info.data.get("manifest_hash") if self.info else None
        return ModelFacts(
            bundle_id=self.info.id if self.info else "",
            path=self.path,
            architecture=self.info.architecture if self.info else self.model.name,
            num_parameters=self.model.num_parameters,
            macs_per_second=self.model.macs_per_second,
            latency_ms=self.model.latency_ms,
            real_time_factor=real_time_factor,
            sample_rate=self.model.sample_rate,
            same_corpus=None if trained_on is None or not manifest_hash else trained_on == manifest_hash,
        )


def load_systems(
    bundles: Sequence[str], groups: Mapping[str, Sequence[str]], taken: Sequence[str] = ()
) -> list[ModelSystem]:
    """Bundles, then the members of each group, loaded. taken: names that are given to others.

    Raises BundleError or EvaluationError, one line each.
    """
    systems: list[ModelSystem] = []
    names = {NOISY, CLEAN, *taken, *groups}
    if len(names) != 2 + len(taken) + len(groups):
        raise EvaluationError(
            f"names must differ, and not be {NOISY} or {CLEAN}; got {', '.join([*taken, *groups])}"
        )
    for path in bundles:
        system = _load(path)
        if system.name in names:
            mark = system.info.id[-6:] if system.info else hashlib.sha256(path.encode()).hexdigest()[:6]
            system = dataclasses.replace(system, name=f"{system.name}-{mark}")
        if system.name in names:
            raise EvaluationError(f"{path} is given twice; name each bundle once")
        names.add(system.name)
        systems.append(system)
    for group, paths in groups.items():
        if len(paths) < 2:
            raise EvaluationError(f"--group {group}: one bundle has no spread; name two or more, with commas")
        members = [
            dataclasses.replace(_load(path), name=f"{group} seed {number}", group=group)
            for number, path in enumerate(paths, start=1)
        ]
        if len({(member.model.name, member.model.num_parameters) for member in members}) > 1:
            raise EvaluationError(
                f"--group {group}: its bundles are of different models; group trainings of one"
            )
        systems += members
    return systems


def _load(path: str) -> ModelSystem:
    if Path(path).is_file():
        try:
            model: Denoiser = load_denoiser_checkpoint(path)
        except ValueError as error:
            raise EvaluationError(str(error)) from error
        return ModelSystem(name=Path(path).stem, path=path, model=model, info=None)
    info = read_bundle_info(path)
    folder = Path(path).resolve()
    name = folder.parent.name if folder.name == "bundle" else folder.name  # runs/NAME/bundle
    return ModelSystem(name=name, path=path, model=load_bundle(path), info=info)


def streams_of(systems: Sequence[ModelSystem]) -> dict[str, OnnxEngine]:
    """The engine of each model that runs in steps, as it is deployed, in fp32. Takes seconds for each."""
    engines = {
        system.name: OnnxEngine.from_model(system.model)
        for system in systems
        if system.model.latency_samples is not None
    }
    if not engines:
        raise EvaluationError("--stream: none of the models runs in steps; all of them need the whole clip")
    return engines
