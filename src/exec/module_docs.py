# Prints what a package documents: its modules' functions and classes with signatures and docstrings.
# The engine puts the line MODULE = "name" before it.
import importlib
import inspect
import pkgutil

LONGEST = 4000


def tell(heading, member):
    try:
        signature = str(inspect.signature(member)) if callable(member) else ""
    except (TypeError, ValueError):
        signature = "(…)"
    print(f"{heading}{signature}\n\n{(inspect.getdoc(member) or '')[:LONGEST]}\n")


package = importlib.import_module(MODULE)  # noqa: F821
names = [MODULE]  # noqa: F821
names += [f"{MODULE}.{m.name}" for m in pkgutil.iter_modules(getattr(package, "__path__", []))]  # noqa: F821
for name in names:
    if name.rpartition(".")[2].startswith("_"):
        continue
    try:
        module = importlib.import_module(name)
    except BaseException as error:  # a module may even exit when it is imported
        print(f"# {name} cannot be imported: {error}\n")
        continue
    print(f"# {name}\n\n{(inspect.getdoc(module) or '')[:LONGEST]}\n")
    for key, member in sorted(vars(module).items()):
        home = getattr(member, "__module__", None) or name
        if key.startswith("_") or home != name or not (inspect.isclass(member) or inspect.isroutine(member)):
            continue
        tell(f"## {name}.{key}", member)
        if inspect.isclass(member):
            for method, function in sorted(vars(member).items()):
                function = inspect.unwrap(getattr(function, "__func__", function))
                if not method.startswith("_") and (inspect.isroutine(function)):
                    tell(f"### {name}.{key}.{method}", function)
