"""The plugins, a module or a package each: what to do, as data. None does I/O, imports another, or keeps state between calls.

A module offers these functions (``cni.dispatch.Plugin`` types them):

``parse(call)``                       the configuration as the plugin's record, or a ConfigError; the only way to get one
``look(conf, call, host, known)``     what is there now; reads only. ``known`` is the lease (ADD) or prevResult (CHECK, DEL)
``plan_add(conf, call, facts, lease)``  the plan, and the result it will have made
``report(conf, result, host)``        the result completed by what only the kernel knows
``plan_del(conf, call, facts)``       the plan that removes all of an attachment; what is gone is fine
``check(conf, call, facts, prev)``    what is not as ADD left it, a line each
``plan_gc(conf, call, keep, host)``   the plan that removes what attachments outside ``keep`` left
``status(conf, call, host)``          raises NotAvailable or LimitedConnectivity when ADD could not succeed now

and two constants: ``CREATES_INTERFACE``, whether its ADD makes the interface CNI_IFNAME: one that is there is then refused;
``CHAINED``, whether it adds to what plugins before it did: ADD and CHECK then need prevResult, which ``plan_add`` gets as the
lease. DEL has to do without.
"""
