"""python -m ww_models: what each preset costs, as a Markdown table."""

from ww_models.registry import PRESETS, build_model


def main() -> None:
    print("| preset | parameters | GMAC per second of audio | latency |\n|---|---|---|---|")
    for preset, settings in PRESETS.items():
        model = build_model(**settings)
        latency = "the whole clip" if model.latency_ms is None else f"{model.latency_ms:.1f} ms"
        size, work = f"{model.num_parameters / 1e6:.2f} M", f"{model.macs_per_second / 1e9:.3f}"
        print(f"| {preset} | {size} | {work} | {latency} |")


if __name__ == "__main__":
    main()
