//! smoke
use lb_tests::packet::{dut::*, frame::*};
#[test]
fn loads() {
    let mut dut = Dut::load(Options::default());
    dut.set_backend(0, live_backend(0));
    dut.set_service(0, lb_common::service::Service { mode: 1, ..Default::default() });
    dut.set_table(0, &rotation(&[0]));
    dut.add_key("10.0.0.100:104".parse().unwrap(), 6, 0);
    let f = Frame::tcp("10.0.0.1:1000".parse().unwrap(), "10.0.0.100:104".parse().unwrap(), flags::SYN);
    let r = dut.run(&f.bytes());
    println!("{r:?} {:?} {:?}", dut.reasons(), dut.service_traffic(0));
    let info = dut.program().info().unwrap();
    println!("{:?}", info);
    assert_eq!(r.verdict, XDP_TX);
}
