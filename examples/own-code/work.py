"""Some work, for `llem exec --vs`: python examples/own-code/work.py"""

print(sum(number * number % 7 for number in range(8_000_000)))
