"""What runs a model on a CUDA device: PyTorch's formats by streams, pinned memory and graphs, ONNX Runtime by a bound session.

The code that needs no device (staging, buckets, which graph is taken, the errors) is tested on the CPU.
"""
