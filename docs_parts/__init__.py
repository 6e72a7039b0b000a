"""Parts of the documentation that are made from results, the planner and the examples: `python -m docs_parts`."""
