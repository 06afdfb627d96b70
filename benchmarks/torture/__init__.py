"""Breaking Darkroom on purpose: kills at any moment, damaged files, full and read-only disks, the same run many times.

    make torture                                  all of it, and a table for the README
    python -m benchmarks.torture --kills 8 ...    a share of it

What a part of it needs of a test is in tests/test_torture.py, which runs five kills.
"""
