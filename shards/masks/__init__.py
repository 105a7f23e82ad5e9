"""Draw masks: boxes, strokes and the presets of other projects."""
