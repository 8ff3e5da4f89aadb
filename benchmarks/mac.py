"""What a Mac's GPU does, without a network: `python -m benchmarks.mac`, and please send mps.json with the Mac's model.

Stable Diffusion 1.5's size is measured, not XL's. The same command again goes on behind the last finished part. Close
other programs first; if macOS ends the process, say at which part, which is the one after the last in the file.
"""

from __future__ import annotations

from benchmarks.gpu import main

if __name__ == "__main__":
    main("mps", ("sd15",))
