"""Write and run networks as ONNX, in 32 and 8 bits."""
