"""Publishing the weights of a run: half precision, checked, with their figures and a model card."""
