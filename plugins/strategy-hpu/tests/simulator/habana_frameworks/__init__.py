"""A SIMULATOR of Intel Gaudi's PyTorch bridge, on the processor: no HPU and nothing of the vendor's is in it.

Written from the rules that the vendor's published sources and documentation state; `signatures.json` says where each
signature was read. What it cannot show: speed, memory, numerics of the hardware, and which operations compile.
"""
