"""Numbers of things, in words."""


def counted(number: int, name: str) -> str:
    """Returns how many things there are, in the singular where it is one.

    Example:
        >>> counted(1, "point"), counted(1200, "point")
        ('1 point', '1,200 points')
    """
    return f"{number:,} {name}{'' if number == 1 else 's'}"
