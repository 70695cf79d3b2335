"""What can this machine measure, and what are its sensors like?"""
