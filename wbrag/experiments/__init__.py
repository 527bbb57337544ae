"""What is measured in finished runs, and the paper's grid: transfer, ablation, placebos, other units, one report."""
