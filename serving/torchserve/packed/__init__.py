"""What runs in a .mar of ours, beside the artifact room and the codec of /predictions; `run_path.py` packs it.

It needs NumPy and the artifact's engine, and nothing else: a host of the real TorchServe has neither orjson nor simdjson.
"""
