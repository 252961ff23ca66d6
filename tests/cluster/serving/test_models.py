"""The models of a replica: found by id, replaced all at once, alive for as long as somebody works with one."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from cluster.serving.errors import ApiError
from cluster.serving.models import ServedModels
from ww_models import BundleError, load_bundle, read_bundle_info


def test_a_model_is_ready_to_work(models: ServedModels, bundle: Path) -> None:
    model, loaded = models.default, load_bundle(bundle)
    assert model.id == read_bundle_info(bundle).id
    assert model.engine is not None
    assert model.sample_rate == 16_000
    assert model.engine.latency_samples == loaded.latency_samples
    assert model.real_time_factor > 0
    assert models.get(None) is models.get(model.id) is model
    assert models.all() == [model]


def test_an_unknown_model_is_refused_with_those_that_there_are(models: ServedModels) -> None:
    with pytest.raises(ApiError, match=models.default.id) as info:
        models.get("nobody")
    assert (info.value.status, info.value.code) == (404, "unknown_model")


def test_a_model_that_needs_the_whole_clip_has_no_engine(bundle: Path, whole_clip_bundle: Path) -> None:
    whole_id = read_bundle_info(whole_clip_bundle).id
    models = ServedModels([whole_clip_bundle, bundle])
    assert models.default.id == whole_id
    assert models.default.engine is None
    assert models.default.real_time_factor > 0


def test_a_promotion_keeps_what_is_in_use(bundle: Path, other_bundle: Path) -> None:
    models = ServedModels([bundle])
    in_use = models.default
    models.replace([other_bundle, bundle])
    assert models.default.id == read_bundle_info(other_bundle).id
    assert models.get(in_use.id) is in_use, "a bundle that is served already must not be loaded again"
    models.replace([other_bundle])
    with pytest.raises(ApiError):
        models.get(in_use.id)
    assert in_use.engine is not None
    gone = weakref.ref(in_use)
    del in_use
    gc.collect()
    assert gone() is None, "nobody works with it any more"


def test_a_new_model_is_prepared_before_anybody_can_find_it(bundle: Path, other_bundle: Path) -> None:
    models = ServedModels([bundle])
    prepared: list[tuple[str, list[str]]] = []
    models.replace(
        [other_bundle, bundle],
        prepare=lambda model: prepared.append((model.id, [each.id for each in models.all()])),
    )
    old_id, new_id = (read_bundle_info(path).id for path in (bundle, other_bundle))
    assert prepared == [(new_id, [old_id])], "the old one was prepared already"
    assert models.default.id == new_id


def test_a_promotion_that_fails_changes_nothing(bundle: Path, other_bundle: Path, tmp_path: Path) -> None:
    models = ServedModels([bundle])
    before = models.all()
    for bundles in ([other_bundle, tmp_path], []):
        with pytest.raises((BundleError, ValueError)):
            models.replace(bundles)
        assert models.all() == before
        assert models.default is before[0]
