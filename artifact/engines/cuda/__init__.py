"""What runs a model on a CUDA device: PyTorch's formats by streams, pinned memory and graphs, ONNX Runtime by a bound session.

No device was at hand when it was written. What surrounds the device (lanes, staging, buckets, which graph is taken, layouts,
weights, precisions, errors, what ONNX Runtime is told) is tested with the CPU in its place; streams, events, the capture of
graphs, pinned memory and the device's own arithmetic were not run. What they compute is proven by the golden replay, wherever a
model is loaded.
"""
