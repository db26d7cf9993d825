# One-line names for run.py, which does the work and its own set-up.
.PHONY: demo test check bench
demo: ; python3 run.py demo $(ARGS)
test: ; python3 run.py test $(ARGS)
check: ; python3 run.py check $(ARGS)
bench: ; python3 run.py bench $(ARGS)
