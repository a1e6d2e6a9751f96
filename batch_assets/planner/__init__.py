"""When a night will be ready: its clock, the rates of the nights before, a judgement."""
