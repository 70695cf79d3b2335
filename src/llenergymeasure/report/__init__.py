"""How do results become one page that explains itself, anywhere and without a network?"""
