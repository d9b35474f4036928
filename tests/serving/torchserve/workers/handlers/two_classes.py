"""No function called handle, and two classes: nobody can know which is meant."""


class One:
    pass


class Two:
    pass
