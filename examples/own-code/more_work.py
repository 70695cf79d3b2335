"""The same with 5 % more of it:

llem exec --vs 'python examples/own-code/more_work.py' -- python examples/own-code/work.py
"""

print(sum(number * number % 7 for number in range(8_400_000)))
