"""Detection methods under one protocol: methods × backbones × seeds × settings, a process for each cell."""
