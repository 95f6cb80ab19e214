"""What was found in a video checkpoint, for people."""

from __future__ import annotations

from tools.video.inspection import Inspection, some


def command(found: Inspection) -> str:
    """Return a command that uses the file."""
    if found.stage == "video_tune":
        return f"python -m tools.evaluate --checkpoint {found.path} --test VIDEOS"
    ours = found.card.get("domain") == "video"
    name = "" if ours or found.backbone is None else f" --model.backbone {found.backbone}"
    if not ours and found.backbone is None:
        options = {k: v for k, v in found.network.items() if k in ("dim", "depth", "patch_size", "tubelet_size")}
        text = ", ".join(f"{key}: {value}" for key, value in options.items())
        name = f' --model.backbone video_vit_small --model.backbone_options "{{{text}, heads: ?}}"'
    return f"python -m tools.video_tune --checkpoint {found.path}{name}"


def as_text(found: Inspection) -> str:
    """Write the findings for people."""
    lines = [f"{found.path}: {found.kind}"]

    def line(word: str, text: str) -> None:
        lines.append(f"  {word:<10}{text}")

    if network := found.network:
        told = "heads leave no trace" + (f" in tensors, {found.backbone} has {found.heads}" if found.heads else "")
        line(
            "network",
            f"{found.backbone or 'a video transformer'}: width {network.get('dim', '?')}, {network['depth']} blocks, "
            f"MLP x{network.get('mlp_ratio', '?')}, tubelets of {network.get('tubelet_size', '?')} frames and "
            f"{network.get('patch_size', '?')} x {network.get('patch_size', '?')} pixels; {told}",
        )
    elif "backbone" in found.card:
        line("network", f"{found.card['backbone']}, which is not in this file")
    if found.parts:
        line("also", "; ".join(found.parts))
    kinds = ", ".join(f"{count} {dtype}" if len(found.dtypes) > 1 else dtype for dtype, count in found.dtypes.items())
    line("tensors", f"{found.tensors}, {found.numbers:,} numbers ({kinds})")
    if fit := found.fit:
        line(
            "fits",
            f"{fit.backbone}: {len(fit.matched)} matched, {len(fit.missing)} missing, {len(fit.misshaped)} of another "
            f"shape, {len(fit.unused)} of other parts" + (f" ({some(fit.unused)})" if fit.unused else ""),
        )
    shown = {key: value for key, value in found.card.items() if key not in ("format", "domain", "class_names")}
    if classes := found.card.get("class_names"):
        shown["classes"] = f"{len(classes)} ({some(list(classes))})"
    if shown:
        line("card", ", ".join(f"{key}: {value}" for key, value in shown.items() if value not in (None, {}, [])))
    lines += [f"  note: {text.removeprefix('note: ')}" for text in found.notes]
    lines += [f"  problem: {text}" for text in found.problems]
    if not found.problems:
        line("use", command(found))
    return "\n".join(lines)
