"""Kernels for CPUs: code in LLVM's intermediate language, compiled for the processor at hand when a network is loaded.

They read plain matrices as they lie in a checkpoint. A row's result is the same bits in any company of other rows and
with any number of threads, since each sum is taken by one thread in one order.
"""
